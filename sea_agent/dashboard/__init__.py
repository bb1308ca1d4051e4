"""The dashboard: one page over directories of runs, live and afterwards. It only ever reads."""
