package engine

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/crypto/blake2b"
)

// digest tells text of ours from what somebody made of it. It is no secret and proves nothing.
func digest(text []byte) string {
	sum := blake2b.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// The first line of a file of ours ends with the digest of what follows the header.
const sealMark = "# Written by gatewarden runtime configure, digest "

func sealHeader(text []byte, engine string) string {
	return sealMark + digest(text) + "\n# To change it, repeat that command; to remove it: gatewarden runtime unconfigure " + engine + "\n\n"
}

// seal makes a file of ours of text.
func seal(text []byte, engine string) []byte {
	return append([]byte(sealHeader(text, engine)), text...)
}

// sealed tells whether data is a file of ours, and whether it still is what was written.
func sealed(data []byte, engine string) (ours, intact bool) {
	if !bytes.HasPrefix(data, []byte(sealMark)) {
		return false, false
	}
	_, text, ok := bytes.Cut(data, []byte("\n\n"))
	return true, ok && bytes.HasPrefix(data, []byte(sealHeader(text, engine)))
}

// own reads a file that is to be ours as a whole: nil if there is none. An error says that it is somebody else's, or was
// edited.
func own(path, engine string) ([]byte, error) {
	data, err := read(path)
	if data == nil || err != nil {
		return nil, err
	}
	switch ours, intact := sealed(data, engine); {
	case !ours:
		return nil, fmt.Errorf("%s is there, and gatewarden did not write it; move it away first", path)
	case !intact:
		return nil, edited(path)
	}
	return data, nil
}

func edited(what string) error {
	return fmt.Errorf("%s was edited since gatewarden wrote it; keep what you need of it elsewhere and remove it, then try again", what)
}

// A block of ours in a file of somebody else's: the first line ends with the digest of the lines up to the last one.
const (
	blockBegin = "# BEGIN gatewarden runtime configure, digest "
	blockEnd   = "# END gatewarden runtime configure\n"
	// joined follows the digest if the line before had no end: it got one, which is taken away with the block.
	joined = ", joined"
)

// block makes a block of text, which ends with a newline.
func block(text []byte) []byte {
	return fmt.Appendf(nil, "%s%s\n%s%s", blockBegin, digest(text), text, blockEnd)
}

// appendBlock gives data followed by a block of text.
func appendBlock(data, text []byte) []byte {
	data = bytes.Clone(data)
	if len(data) == 0 || data[len(data)-1] == '\n' {
		return append(data, block(text)...)
	}
	b := bytes.Replace(block(text), []byte("\n"), []byte(joined+"\n"), 1)
	return append(append(data, '\n'), b...)
}

// withoutBlock gives data without our block, and that block, nil if there is none. file is for the error: a block that was
// edited.
func withoutBlock(file string, data []byte) (rest, found []byte, err error) {
	begin := bytes.Index(data, []byte(blockBegin))
	if begin < 0 {
		if bytes.Contains(data, []byte(blockEnd)) {
			return nil, nil, edited(fmt.Sprintf("the block in %s that ends with %q", file, strings.TrimSpace(blockEnd)))
		}
		return data, nil, nil
	}
	what := fmt.Sprintf("the block at line %d of %s", 1+bytes.Count(data[:begin], []byte("\n")), file)
	end := bytes.Index(data, []byte(blockEnd))
	if end < begin || begin > 0 && data[begin-1] != '\n' {
		return nil, nil, edited(what)
	}
	end += len(blockEnd)
	found = data[begin:end]
	first, text, _ := bytes.Cut(found, []byte("\n"))
	text, ok := bytes.CutSuffix(text, []byte(blockEnd))
	cut := begin
	if bytes.HasSuffix(first, []byte(joined)) {
		cut--
	}
	if !ok || cut < 0 || string(bytes.TrimSuffix(first, []byte(joined))) != blockBegin+digest(text) || bytes.Contains(data[end:], []byte(blockBegin)) {
		return nil, nil, edited(what)
	}
	return append(bytes.Clone(data[:cut]), data[end:]...), found, nil
}
