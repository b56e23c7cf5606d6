package tcpclient

func protocolHint(size uint64, header []byte) string { return "" }
