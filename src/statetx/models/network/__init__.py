"""The network PertSets and its losses."""
