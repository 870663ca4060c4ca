"""What was served, kept for training. Reads: answers of the service, labels. Writes: a log of
requests and candidates, label logs, reports of skew.
"""
