"""Files on disk -> checked records, photos and masks."""
