"""Spans of sampled calls: who is sampled, what is kept meanwhile, what is made of it, and its way out."""
