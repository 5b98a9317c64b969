"""One file a sender: bytes and headers become payment events, or a reason. No database, no server."""
