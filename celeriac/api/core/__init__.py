"""What all routes share: the application, authentication, problems, requests, responses."""
