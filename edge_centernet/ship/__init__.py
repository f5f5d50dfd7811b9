"""From this computer onto a board: bundle, deploy, image, flash. Nothing here needs an engine or OpenCV."""
