"""The worker without servers."""
