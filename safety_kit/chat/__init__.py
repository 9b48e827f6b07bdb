"""Every text of a chat completion, where it stands, and what the guard says of all of them together."""
