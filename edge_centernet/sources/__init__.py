"""Where frames come from: image and video files, cameras, live streams."""
