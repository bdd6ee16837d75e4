#!/usr/bin/env bash
# Formats, pipes and bad files of rows.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/standard_relu
rows=$model/x.npy
edit=(--set "3=5")

"$PYTHON" - "$rows" <<'P'
import json
import sys
import warnings
import zipfile
import numpy as np

x = np.load(sys.argv[1])
d = x.shape[1]

def safetensors(path, tensors, meta=None):
    header, data = ({"__metadata__": meta} if meta else {}), b""
    for name, (dtype, v) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(v.shape), "data_offsets": [len(data), len(data) + v.nbytes]}
        data += v.tobytes()
    h = json.dumps(header).encode()
    open(path, "wb").write(len(h).to_bytes(8, "little") + h + data)

def brain(v):
    return (v.view("u4") >> 16).astype("u2")

np.save("in/x.npy", x)
np.save("in/half.npy", np.clip(x, -6e4, 6e4).astype("f2"))
np.save("in/brain.npy", brain(x))
np.save("in/void.npy", brain(x).view("V2"))
np.save("in/three.npy", x[:8].reshape(2, 4, d))
np.save("in/double.npy", x.astype("f8"))
np.save("in/integers.npy", x.astype("i4"))
np.save("in/big.npy", x.astype(">f4"))
np.save("in/fortran.npy", np.asfortranarray(x))
np.save("in/objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
np.save("in/struct.npy", np.zeros(3, dtype=[("a", "f4"), ("b", "f4")]))
np.save("in/scalar.npy", np.float32(1))
np.savez("in/x.npz", acts=x)
np.savez_compressed("in/packed.npz", acts=x)
np.savez("in/two.npz", acts=x, other=x[:2])
np.savez("in/empty.npz")
np.savez("in/objects.npz", acts=x, o=np.array([{"a": 1}], dtype=object))
with open("in/v2.npy", "wb") as f:
    np.lib.format.write_array(f, x, version=(2, 0))
safetensors("in/x.safetensors", {"acts": ("F32", x)}, {"made": "here"})
safetensors("in/two.safetensors", {"other": ("F32", x[:2].copy()), "acts": ("F32", x)})
safetensors("in/brain.safetensors", {"acts": ("BF16", brain(x))})
safetensors("in/long.safetensors", {"acts": ("I64", x.astype("i8"))})
safetensors("in/odd.safetensors", {"acts": ("F8_E4M3", x.astype("u1"))})
safetensors("in/none.safetensors", {})

raw = open("in/x.npy", "rb").read()
open("in/cut.npy", "wb").write(raw[:-4])
open("in/cut_header.npy", "wb").write(raw[:40])
open("in/cut_magic.npy", "wb").write(raw[:7])
open("in/longer.npy", "wb").write(raw + b"more")
open("in/v9.npy", "wb").write(raw[:6] + b"\x09" + raw[7:])
open("in/huge.npy", "wb").write(raw.replace(b"(9, %d)" % d, b"(9000000000000000000, 9000000000000000000, %d)" % d, 1))
def header(text):
    t = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(t).to_bytes(2, "little") + t + x.tobytes()
open("in/no_dict.npy", "wb").write(header("hello"))
open("in/no_shape.npy", "wb").write(header("{'descr': '<f4', 'fortran_order': False, }"))
open("in/negative.npy", "wb").write(header("{'descr': '<f4', 'fortran_order': False, 'shape': (-9, 37), }"))
open("in/repeated.npy", "wb").write(header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (9, 37), }"))
open("in/many_dims.npy", "wb").write(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 9), }"))
open("in/claims.npy", "wb").write(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 64)
open("in/empty.npy", "wb").close()
open("in/text.npy", "w").write("a text and no array")
z = open("in/x.npz", "rb").read()
open("in/cut.npz", "wb").write(z[: len(z) // 2])
at = z.index(x.tobytes())
open("in/flipped.npz", "wb").write(z[:at] + bytes([z[at] ^ 1]) + z[at + 1 :])
q = open("in/packed.npz", "rb").read()
at = q.index(b"PK\1\2")  # the size in the directory of the zip
open("in/bomb.npz", "wb").write(q[: at + 24] + (2**31 - 1).to_bytes(4, "little") + q[at + 28 :])
with zipfile.ZipFile("in/more.npz", "w") as f:
    f.writestr("acts.npy", raw.replace(b"(9, ", b"(99, ", 1).replace(b"  \n", b" \n", 1))
with zipfile.ZipFile("in/twice.npz", "w") as f, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    f.writestr("acts.npy", raw)
    f.writestr("acts.npy", raw)
with zipfile.ZipFile("in/lzma.npz", "w", zipfile.ZIP_LZMA) as f:
    f.writestr("acts.npy", raw)
p = bytearray(q)
p[len(p) // 2] ^= 0xFF
open("in/flipped_packed.npz", "wb").write(p)
s = open("in/x.safetensors", "rb").read()
open("in/cut.safetensors", "wb").write(s[:-1])
open("in/cut_header.safetensors", "wb").write(s[:30])
open("in/lying.safetensors", "wb").write(b"\xff\xff\xff\x05\0\0\0\0" + s[8:])
open("in/no_json.safetensors", "wb").write(s[:8] + b"[" + s[9:])
P

# Every container, in and out, holds the same result.
ok "npy to npy" "$SAE" steer "$model" in/x.npy -o in/want.npy "${edit[@]}"
same='
def load(p):
    if p.endswith(".npy"):
        return np.load(p)
    if p.endswith(".npz"):
        return np.load(p)[a[2]]
    raw = open(p, "rb").read()
    n = int.from_bytes(raw[:8], "little")
    h = json.loads(raw[8 : 8 + n])[a[2]]
    assert h["dtype"] == "F32" and len(raw) == 8 + n + h["data_offsets"][1] and n % 8 == 0
    return np.frombuffer(raw[8 + n :], "<f4").reshape(h["shape"])
x, y = load(a[0]), load(a[1])
assert x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()'
for from in x.npy v2.npy x.npz packed.npz x.safetensors; do
    name=acts
    case $from in *.npy) name=x ;; esac
    for to in npy npz safetensors; do
        ok "$from to $to" "$SAE" steer "$model" "in/$from" -o "in/got.$to" "${edit[@]}"
        py "$from to $to: same rows" "$same" in/want.npy "in/got.$to" "$name"
    done
done
for from in two.npz two.safetensors; do
    ok "$from --tensor" "$SAE" steer "$model" "in/$from" -t acts -o in/got.npy "${edit[@]}"
    ok "$from --tensor: same rows" cmp in/got.npy in/want.npy
done

# Types and shapes stay.
ok "half in" "$SAE" steer "$model" in/half.npy -o in/half_out.npy "${edit[@]}"
py "half out" 'assert np.load(a[0]).dtype == np.float16' in/half_out.npy
ok "bits of bf16 in" "$SAE" steer "$model" in/brain.npy --dtype bf16 -o in/brain_out.npy "${edit[@]}"
ok "bf16 of ml_dtypes in" "$SAE" steer "$model" in/void.npy --dtype bf16 -o in/void_out.npy "${edit[@]}"
ok "bf16 safetensors in" "$SAE" steer "$model" in/brain.safetensors -o in/brain_out.safetensors "${edit[@]}"
py "bf16 out, the same three times" '
b = np.load(a[0])
raw = open(a[2], "rb").read()
n = int.from_bytes(raw[:8], "little")
assert b.dtype == np.uint16 and b.tobytes() == np.load(a[1]).tobytes() == raw[8 + n :]
assert json.loads(raw[8 : 8 + n])["acts"]["dtype"] == "BF16"' in/brain_out.npy in/void_out.npy in/brain_out.safetensors
ok "three dimensions" "$SAE" steer "$model" in/three.npy -o in/three_out.npy "${edit[@]}"
py "stay three" 'y = np.load(a[0]); w = np.load(a[1]); assert y.shape[:2] == (2, 4) and (y.reshape(8, -1) == w[:8]).all()' in/three_out.npy in/want.npy

# Pipes.
"$SAE" steer "$model" - -o - "${edit[@]}" <in/x.npy 2>err.txt | cat >in/got.npy
ok "npy through pipes" cmp in/got.npy in/want.npy
ok "summary goes to standard error" grep -q "rows changed" err.txt
for from in x.npz x.safetensors; do
    # shellcheck disable=SC2002
    cat "in/$from" | "$SAE" steer "$model" - -o in/got.npy "${edit[@]}" >/dev/null
    ok "$from from a pipe" cmp in/got.npy in/want.npy
done
"$SAE" encode "$model" in/x.npy -o in/codes.npz >/dev/null
"$SAE" encode "$model" - -o - <in/x.npy 2>/dev/null | cat >in/got.npz
ok "codes to a pipe" cmp in/got.npz in/codes.npz
"$SAE" decode "$model" in/codes.npz -o in/xhat.npy >/dev/null
"$SAE" encode "$model" in/x.npy -o - 2>/dev/null | "$SAE" decode "$model" - -o - 2>/dev/null | cat >in/got.npy
ok "encode | decode" cmp in/got.npy in/xhat.npy
"$SAE" encode "$model" in/x.npy --dense -o - 2>/dev/null | "$SAE" decode "$model" - -o in/got.npy >/dev/null
ok "encode --dense | decode" cmp in/got.npy in/xhat.npy
mkfifo in/fifo.npy
cat in/fifo.npy >in/got.npy &
ok "into a FIFO" "$SAE" steer "$model" in/x.npy -o in/fifo.npy "${edit[@]}"
wait $!
ok "a FIFO gets the rows" cmp in/got.npy in/want.npy
ok "and stays a FIFO" test -p in/fifo.npy
ln -s target.npy in/link.npy
: >in/target.npy
ok "through a link" "$SAE" steer "$model" in/x.npy -o in/link.npy "${edit[@]}"
ok "the link stays" test -L in/link.npy
ok "its target has the rows" cmp in/target.npy in/want.npy
umask 027
ok "permissions" "$SAE" steer "$model" in/x.npy -o in/mode.npy "${edit[@]}"
ok "follow the umask" test "$(stat -c %a in/mode.npy)" = 640
echo keep >in/keep.npy
"$SAE" steer "$model" in/cut.npz -o in/keep.npy "${edit[@]}" 2>/dev/null
ok "a failure leaves the old file" grep -q keep in/keep.npy

bad() { # TEXT FILE [ARG...]
    local text=$1 file=$2
    shift 2
    refuses 1 "$text" steer "$model" "in/$file" -o out/y.npy "${edit[@]}" "$@"
}
bad "holds '<f8'; rows are float32" double.npy
bad "holds '<i4'; rows are float32" integers.npy
bad "if they are the bits of bfloat16, say --dtype bf16" brain.npy
bad "is big-endian" big.npy
bad "Fortran order" fortran.npy
bad "Python objects" objects.npy
bad "Python objects" objects.npz --tensor acts
bad "structured dtype" struct.npy
bad "shape [] has no rows" scalar.npy
bad "choose one with --tensor NAME: acts, other" two.npz
bad "choose one with --tensor NAME: " two.safetensors
bad "holds no array 'nope', but acts" two.npz --tensor nope
bad "drop --tensor" x.npy --tensor acts
bad "not the f16 that --dtype expects" x.npy --dtype f16
bad "holds no array" empty.npz
bad "holds no array" none.safetensors
bad "holds 'I64'; rows are float32" long.safetensors
bad "F8_E4M3" odd.safetensors
bad "needs 1332 bytes after the header, the file has 1328" cut.npy
bad "needs 1332 bytes after the header, the file has 1336" longer.npy
bad "header is damaged: it ends early" cut_header.npy
bad "magic bytes are missing" cut_magic.npy
bad "version 9 is not read" v9.npy
bad "larger than any file" huge.npy
bad "it is no dict" no_dict.npy
bad "descr, fortran_order or shape is missing" no_shape.npy
bad "something that is no size" negative.npy
bad "unknown or repeated" repeated.npy
bad "more than 8 dimensions" many_dims.npy
bad "claims 2147483647 bytes" claims.npy
bad "is empty" empty.npy
bad "neither .npy nor .npz nor safetensors" text.npy
bad "its directory is missing" cut.npz
bad "checksum" flipped.npz
bad "'acts' claims 2147483647 bytes from" bomb.npz
bad "shape [99][37], which does not fit" more.npz
bad "holds two arrays 'acts'" twice.npz
bad "packed by other means than deflate" lzma.npz
bad "damaged" flipped_packed.npz
bad "spans bytes 0 to 1332, the file holds 1331" cut.safetensors
bad "header claims" cut_header.safetensors
bad "header claims" lying.safetensors
bad "not a JSON object" no_json.safetensors
bad "cannot open: No such file" nowhere.npy
refuses 1 "is a folder" steer "$model" in -o out/y.npy "${edit[@]}"
mkdir in/folder.npy
refuses 1 "in/folder.npy: is a folder" steer "$model" in/x.npy -o in/folder.npy "${edit[@]}"
for file in "$GOLDEN"/bad/st_*.safetensors; do
    refuses 1 "${file##*/}: " encode "$model" "$file" --tensor W_enc -o out/c.npz
done
# The same from a pipe, where no size is known beforehand.
for name in cut longer cut_header; do
    "$SAE" steer "$model" - -o out/y.npy "${edit[@]}" <"in/$name.npy" >said.txt 2>err.txt
    check_refusal 1 "standard input" $? "$name.npy from a pipe"
done
for name in cut.npz flipped.npz cut.safetensors; do
    # shellcheck disable=SC2002
    cat "in/$name" | "$SAE" steer "$model" - -o out/y.npy "${edit[@]}" >said.txt 2>err.txt
    check_refusal 1 "standard input" $? "$name from a pipe"
done

finish
