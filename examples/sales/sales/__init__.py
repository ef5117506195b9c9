"""Leads of a company that sells warehouse software: qualified and enriched by agents."""
