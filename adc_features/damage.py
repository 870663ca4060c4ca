"""What reading a damaged file raises. Reads: nothing. Writes: nothing.

Parquet pages carry checksums, but damage shows in many kinds of error, and names in a damaged
footer are decoded only when they are asked for.
"""

import pyarrow as pa

READ_ERRORS = (OSError, EOFError, UnicodeError, pa.ArrowException)
"""Raised by pyarrow for a file that is missing, damaged or of another format."""
