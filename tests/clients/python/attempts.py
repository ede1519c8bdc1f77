"""What an SDK that is told to come back later does, as seen by its HTTP client (httpx)."""

import time


class Attempts(list):
    """(when, status, Retry-After) of each answer."""

    def note(self, response):
        """The hook of the client."""
        self.append((time.monotonic(), response.status_code, response.headers.get("retry-after")))

    def assert_waited(self, status):
        """It was refused so, came back no earlier than it was told, and had its answer in the end."""
        assert self[0][1] == status and self[-1][1] == 200, self
        assert self[1][0] - self[0][0] >= int(self[0][2]) >= 1, "it came back before Retry-After"
