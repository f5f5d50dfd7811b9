"""What a camera counted over days and years: `store` keeps it, `report` sums it up, `page` draws it."""
