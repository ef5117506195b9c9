"""The bodies of requests: strict, so that a typing error is found here and not at night."""
