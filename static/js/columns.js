// Columns as the API sends them with format=typed: {"dtype", "bdata"}, little-endian in base64 (app/columns.py).

const TYPES = {
  i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array,
  f4: Float32Array, f8: Float64Array,
};

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const plain = atob(text);
  const bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  return bytes;
}

// A plain array, that live points can be appended to. NaN and infinity are in it as they are.
export function readColumn({ dtype, bdata }) {
  return Array.from(new TYPES[dtype](bytesOf(bdata).buffer));
}
