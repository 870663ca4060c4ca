"""Rankers of several tasks on declared inputs: a gated network or boosted trees."""
