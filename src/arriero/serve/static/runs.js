export function mount() { return null; }
