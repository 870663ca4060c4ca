"""UniSID end to end: an encoder that is tuned with its codes. Reads: RawItems. Writes: a trained
UnisidNetwork.
"""
