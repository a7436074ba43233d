"""The console: one live page on the admin port."""
