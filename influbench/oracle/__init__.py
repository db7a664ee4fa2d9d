"""Around the exact influence: its noise, the released code's quirks, groups of candidates."""
