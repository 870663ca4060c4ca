"""Delta and Iceberg tables at one version, read by their own libraries' word on which rows are
current. Reads: tables. Writes: nothing; no feast here.
"""
