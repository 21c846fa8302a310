"""What several resources read and write: threads, runs, payloads, the graphs that are served and living workers."""
