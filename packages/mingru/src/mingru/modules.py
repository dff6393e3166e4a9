from .functional import *
MinConv2dGRU=MinConv2dGRUCell=MinGRU=MinGRUCell=MinLSTM=None
