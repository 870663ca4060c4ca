"""A model that generates a user's next item by its codes; tokenizers learn from it and retrieval is
made of it.
"""
