"""The embedded dataset: dressed people, drawn with exact masks, in Fashionpedia's layout."""
