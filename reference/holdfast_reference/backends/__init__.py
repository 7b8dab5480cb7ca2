"""What a server stands on: who may come in, and how events find their subscribers."""
