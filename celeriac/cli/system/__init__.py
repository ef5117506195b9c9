"""The whole system on one machine: servers, API, worker and beat under one supervisor."""
