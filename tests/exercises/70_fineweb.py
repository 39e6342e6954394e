"The exercises of nbs/70_fineweb.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
check_reader.verify(lambda row, batch, world: (row // batch % world, row // batch // world), wrong=[
    lambda row, batch, world: (row // (batch * world), row // batch % world), lambda row, batch, world: (row % world, row // (batch * world)),
    lambda row, batch, world: (row // batch, 0), lambda row, batch, world: (row // batch % world, row // batch)])

# %%
def _sound(data):
    if len(data) < 1024: return None
    magic, version, tokens = struct.unpack("<3i", data[:12])
    return tokens if magic == 20240520 and version == 1 and len(data) == 1024 + 2 * tokens else None
def _trusting(data): return struct.unpack("<3i", data[:12])[2] if len(data) >= 1024 else None
def _by_size(data): return (len(data) - 1024) // 2 if len(data) >= 1024 and struct.unpack("<2i", data[:8]) == (20240520, 1) else None
def _short_count(data):
    magic, version, tokens = struct.unpack("<2iH", data[:10]) if len(data) >= 1024 else (0, 0, 0)
    return tokens if magic == 20240520 and version == 1 and len(data) == 1024 + 2 * tokens else None
def _careless(data):
    magic, version, tokens = struct.unpack("<3i", data[:12])
    return tokens if magic == 20240520 and (len(data) - 1024) // 2 == tokens else None
check_tokens_in.verify(_sound, wrong=[_trusting, _by_size, _short_count, _careless, lambda data: 3])
