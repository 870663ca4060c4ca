"""One encoder for each kind of input. All of them pass the contract tests of
`tests/contracts/encoder_contract.py`.
"""
