help:
	@echo soon
