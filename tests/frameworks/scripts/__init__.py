"""Programs that the tests start in processes of their own; each is offline before it begins."""

from tests.frameworks import offline as offline
