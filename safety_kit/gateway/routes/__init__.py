"""The endpoints: each file makes a router of one family."""
