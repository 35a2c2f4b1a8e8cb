package journal

// Name is the name of the journal in a container's state directory.
const Name = "receipts.jsonl"
