"""Webhook endpoints, deliveries, and their sender."""
