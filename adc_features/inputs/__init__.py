"""How any feature enters a ranker: declared, fitted, and turned into the arrays that models
read.

declaration -> resolution (with a ServiceSchema) -> encoder (fitted on training rows) -> Encoded.
The same encoder turns joined rows and a request's online rows into the same arrays.
"""
