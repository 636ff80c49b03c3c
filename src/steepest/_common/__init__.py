"""The ground floor: what several parts of the library need and that belongs to none of them."""
