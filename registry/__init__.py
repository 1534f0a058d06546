"""registry remembers models: records, store, index, runs, gate, versions, promotion, card, footprint."""
