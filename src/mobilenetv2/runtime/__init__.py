"""Running models without torch: pictures in, frozen records out."""
