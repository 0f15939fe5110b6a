"""The paper's tables and figures, computed from the live networks beside what the paper prints."""
