"""What cameras counted over days and years.

`store` keeps it, `summary` sums it up into a `report`, `page` draws that; `parquet` and `fleet` are for many.
"""
