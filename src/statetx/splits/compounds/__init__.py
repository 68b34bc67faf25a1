"""Facts about compounds for splits: tables, structures, strengths of effect."""
