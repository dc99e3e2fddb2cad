class Streams:
    def __init__(self, node):
        pass

    def start(self):
        pass

    def wake(self):
        pass

    async def close(self):
        pass
