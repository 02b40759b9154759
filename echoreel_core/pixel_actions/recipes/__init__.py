"""How base model, judge and adapter were made. Imports all of `pixel_actions`; not in the published archive."""
