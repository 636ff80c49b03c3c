"""Does each layer keep the size of its activations, however deep the network is?"""
