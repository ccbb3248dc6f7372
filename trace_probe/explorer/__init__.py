"""The explorer: pages that show where in a trace an instrumental goal emerges."""
