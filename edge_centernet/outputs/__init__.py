"""Where results go: records, annotated pictures and videos, MQTT, Prometheus, the web page."""
