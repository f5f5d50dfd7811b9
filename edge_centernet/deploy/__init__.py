"""Deployment to boards: a signed bundle, sent over SSH and installed by an agent that can fall back."""
