from .files import read_json, read_records, write_json

__all__ = ["read_json", "read_records", "write_json"]
