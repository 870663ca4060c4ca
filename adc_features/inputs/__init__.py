"""How any feature enters a ranker: its declaration, what is fitted, and the arrays of models.

declaration -> resolution (with a ServiceSchema) -> encoder (fitted on training rows) -> Encoded.
The same encoder turns joined rows and a request's online rows into the same arrays.
"""
