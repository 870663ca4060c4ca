"""One encoder for each kind of input. All of them pass the contract tests of
`tests/contracts/test_encoder_contract.py`.
"""
