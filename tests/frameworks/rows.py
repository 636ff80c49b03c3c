FRAMEWORKS = {"transformers": "transformers"}
ROWS = {}
